from judging import agree, dtype

__all__ = ["agree", "dtype"]

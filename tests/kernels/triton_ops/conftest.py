from judging import DEVICE, agree, dtype

__all__ = ["agree", "dtype"]

collect_ignore = [] if DEVICE == "cuda" else ["test_flash_attention.py"]

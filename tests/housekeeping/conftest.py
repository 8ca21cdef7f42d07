from data_root import campaign  # noqa: F401
from made_by_hand import new_database  # noqa: F401

from made_by_hand import collected, database, new_database, start_python  # noqa: F401

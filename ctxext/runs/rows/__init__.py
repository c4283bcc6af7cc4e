"""What runs measure and record, one dataclass for each row and document.

`to_dict` gives the JSON that is written, field for field; `from_dict` reads it back, checked.
"""

"""What position is: the words for each way a decoder is told where tokens sit, and their math.

Imports nothing from the other rooms. The frequency math is plain floats, so it costs no import.
"""

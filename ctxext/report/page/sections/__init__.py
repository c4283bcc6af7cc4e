"""The parts of the report's page, one file for each subject.

A section is an empty string where there is nothing to show. May import all of `report`.
"""

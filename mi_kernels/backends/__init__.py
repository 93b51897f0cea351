"""Backends do arithmetic on memory they are handed. They validate nothing: `ops` has done that."""

"""What a person types: argument parsing, and the tables and lines that answer.

What belongs here: one module per group of commands, and how things are printed (``output``). What a command does lives
in ``ambimesh.lab`` and the components; nothing here decides anything.
"""

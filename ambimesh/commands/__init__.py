"""What a person types: argument parsing, and the tables and lines that answer.

What belongs here: one module per group of commands. How things are printed is ``ambimesh.output``; what a command does
lives in ``ambimesh.lab``, ``ambimesh.demo`` and the components. Nothing here decides anything.
"""

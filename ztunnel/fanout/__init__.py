"""What ztunnel's supervisor and its workers say to each other.

What belongs here: the messages and their bytes (``messages_codec``), messages cut into packets (``packets_machine``),
and the socket that carries them (``channel_driver``). What does not: what either side does about them (``supervisor``,
``worker``).
"""

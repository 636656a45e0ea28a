"""Everything that commands print, recorded: bytes change only on purpose."""

"""The frameworks, one file each; the name of the file is the name on the command line."""

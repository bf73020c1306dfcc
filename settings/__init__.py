"""The settings of a stack: typed and frozen. A value of these types is valid; nothing checks it again."""

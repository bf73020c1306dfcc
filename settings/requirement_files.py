"""Files that say what an application needs."""

# In the order in which they are looked for.
REQUIREMENT_FILES = (
    "requirements.txt", "uv.lock", "poetry.lock", "pylock.toml", "Pipfile.lock", "pyproject.toml",
)  # fmt: skip

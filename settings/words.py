"""Put numbers into the words of messages."""


def count(number: int, noun: str, plural: str = "") -> str:
    """Return how many there are: 1 server, 2 servers. plural: where it is no `s` more."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"

"""Settings that say something of each model: `search=2GB,ads=500MB`."""


def parse_by_model(text: str) -> dict[str, str]:
    """What is said, by model. Raises ValueError.

    >>> parse_by_model("search=2GB, ads=500MB")
    {'search': '2GB', 'ads': '500MB'}
    """
    told: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        model, equals, value = (word.strip() for word in part.partition("="))
        if not (model and equals and value) or model in told:
            raise ValueError(f"{part!r}: expected model=value, every model once, with commas between")
        told[model] = value
    return told

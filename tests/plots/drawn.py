"""What is written on axes."""


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]

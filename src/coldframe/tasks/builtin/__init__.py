"""Tasks that come with coldframe, one file per source; their bytes travel inside PyPI wheels."""

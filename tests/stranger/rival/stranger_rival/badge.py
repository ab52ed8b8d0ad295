"""Never imported: two plugins of one name stop the start before that."""

raise RuntimeError("imported although its name is taken twice")

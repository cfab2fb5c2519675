"""The figures of comparisons and ladders: what is drawn (`panels`, as the data of `shapes`), and two renderers."""

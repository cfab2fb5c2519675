"""One layer with its tokens spread over ranks (`glm-scale bench parallel`): time, bytes, and what hides exchanges."""

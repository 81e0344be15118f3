"""Documents in, items out: parsing, chunking, prompts, recipes, the teacher client, filters."""

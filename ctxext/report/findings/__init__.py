"""What several runs found: collected, compared, and said in a sentence a model."""

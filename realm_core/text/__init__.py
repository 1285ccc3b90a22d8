"""From document text to block records: sentences, blocks, salient spans, answers."""

"""Model files as text: a lenient reader of XML, and which files a model consists of.

May import: errors; no engine.
"""

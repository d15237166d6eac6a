"""Reports, written once: numbers, figures, HTML pages, Markdown and terminal tables of plain data.

A report is a list of blocks (:mod:`coldframe.reports.blocks`): text, tables, figures, a banner with the verdict. Those
who know what a report says build the blocks; :mod:`~coldframe.reports.html`, :mod:`~coldframe.reports.markdown` and
:mod:`~coldframe.reports.terminal` show them.
"""

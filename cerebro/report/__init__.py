"""One HTML file that shows a run.

contents  what a page is made from: plain numbers and texts
page      the file: its parts, in order
markup    elements, in which all that is no HTML is escaped
sections  the parts that are made of HTML alone: tables, bars of time
data      the numbers that the drawings are made from, packed
axes      how the values of a hyperparameter are laid out

The drawings are made when the file is opened, by the scripts beside these modules; `page.css` has
the looks. Nothing here reads a run: `cerebro.results.report_contents` does.
"""

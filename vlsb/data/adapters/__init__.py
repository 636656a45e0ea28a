"""Data sets that others published, one small module each; `reading` is what they share.

A module says where the data set is, of which revision the layout was read, its licence, what a judge sees,
and which half a name is: harmful rows, which a good answer declines or warns of, or benign ones. Ids are
the published ones where those are numbers, else places in the published order.
"""

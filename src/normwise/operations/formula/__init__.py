"""A formula between two passes over the tensor: from moments to tables and y, and back.

The formula runs by autograd on ``[N, C]`` leaves (tiny_graph.py), or as a program that was recorded from it
(recording.py, lowering.py, recorded.py); output_step.py applies the tables to x.
"""

"""Methods written the way they were published, in plain unfused torch: what fastmim is checked and measured against.

May import torch only: an oracle that shared code with fastmim would share its mistakes.
"""

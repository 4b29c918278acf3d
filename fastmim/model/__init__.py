"""Every nn.Module of fastmim and the parts that build them."""

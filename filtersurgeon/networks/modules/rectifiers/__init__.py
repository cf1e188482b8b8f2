"""Rectifiers with another slope in one pass or in both: ReLU, Leaky ReLU, ProxyGrad."""

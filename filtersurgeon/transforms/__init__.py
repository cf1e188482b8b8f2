from filtersurgeon.registry import Registry

TRANSFORMS = Registry("filtersurgeon.transforms", "transform")

__all__ = ["TRANSFORMS"]

from filtersurgeon.banks.bank import BUILTIN, FilterBank, load_bank, save_bank

__all__ = ["BUILTIN", "FilterBank", "load_bank", "save_bank"]

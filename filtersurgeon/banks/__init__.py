from filtersurgeon.banks.bank import FilterBank, load_bank, save_bank

__all__ = ["FilterBank", "load_bank", "save_bank"]

from filtersurgeon.banks.bank import FilterBank, load_bank, read_bank, save_bank
from filtersurgeon.banks.matching import compare_banks

__all__ = ["FilterBank", "compare_banks", "load_bank", "read_bank", "save_bank"]

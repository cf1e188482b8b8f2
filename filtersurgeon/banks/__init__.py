from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.banks.files import read_bank, save_bank
from filtersurgeon.banks.matching import compare_banks
from filtersurgeon.banks.source import load_bank

__all__ = ["FilterBank", "compare_banks", "load_bank", "read_bank", "save_bank"]

from filtersurgeon.banks.search.by_accuracy import SearchData
from filtersurgeon.banks.search.result import BankSearch, SearchStep
from filtersurgeon.banks.search.search import search_bank

__all__ = ["BankSearch", "SearchData", "SearchStep", "search_bank"]

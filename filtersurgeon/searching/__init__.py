from filtersurgeon.searching.by_accuracy import SearchData
from filtersurgeon.searching.result import BankSearch, SearchStep
from filtersurgeon.searching.search import search_bank

__all__ = ["BankSearch", "SearchData", "SearchStep", "search_bank"]

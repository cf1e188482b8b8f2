from filtersurgeon.ranking.method import Scores
from filtersurgeon.ranking.ranking import LayerRanking, Ranking, rank

__all__ = ["LayerRanking", "Ranking", "Scores", "rank"]

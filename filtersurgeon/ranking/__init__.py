from filtersurgeon.ranking.ranking import METHODS, LayerRanking, Ranking, Scores, rank

__all__ = ["METHODS", "LayerRanking", "Ranking", "Scores", "rank"]

from filtersurgeon.ranking.ranking import LayerRanking, Ranking, Scores, rank

__all__ = ["LayerRanking", "Ranking", "Scores", "rank"]

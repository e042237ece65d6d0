"""A package of one's own: a model, a data set, and their settings in ``conf/``."""

from own_package.naive_bayes import NaiveBayesClassifier

__all__ = ["NaiveBayesClassifier"]

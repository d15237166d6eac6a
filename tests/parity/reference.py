"""The methods' equations as the papers write them: lists, loops and one number at a time, in double precision.

A vector is a list of floats, a matrix a list of rows. Nothing here is shared with the library.
"""

from __future__ import annotations

import math

Vector = list[float]
Matrix = list[Vector]


def dot(a: Vector, b: Vector) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


def linear(weight: Matrix, bias: Vector, x: Vector) -> Vector:
    """``W x + b``."""
    out = []
    for row in range(len(weight)):
        out.append(dot(weight[row], x) + bias[row])
    return out


def add(a: Vector, b: Vector) -> Vector:
    return [a[i] + b[i] for i in range(len(a))]


def softmax(scores: Vector) -> Vector:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def unit(x: Vector) -> Vector:
    length = math.sqrt(dot(x, x))
    return [value / length for value in x] if length else x


def adapted(x: Vector, weight: Matrix | None, bias: Vector) -> Vector:
    """What a method sees of an encoded text: unit length, then ``tanh(W e + b)`` if there is an adapter."""
    x = unit(x)
    return x if weight is None else [math.tanh(value) for value in linear(weight, bias, x)]


def head_of(weight: Matrix, bias: Vector, head: int, d: int) -> tuple[Matrix, Vector]:
    """The rows of head i in a matrix that holds all heads one below the other."""
    return weight[head * d : (head + 1) * d], bias[head * d : (head + 1) * d]


def standardised(values: Vector) -> Vector:
    """Mean 0 and variance 1; zeros where all are equal."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / spread if spread > 1e-6 else 0.0 for value in values]


def mha_esp(
    e_x: Vector,
    e_k: list[Vector],
    query: tuple[Matrix, Vector],
    key: tuple[Matrix, Vector],
    value: tuple[Matrix, Vector],
    heads: int,
    d: int,
    temperatures: Vector | None = None,
    slopes: Vector | None = None,
    similarities: Vector | None = None,
    direct: tuple[Matrix, Vector] | None = None,
) -> tuple[list[Vector], list[Vector]]:
    """Soft tokens ``z_i`` and attention ``a_ik``.

    ``q_i = W_i^Q e_x``, ``k_ik = W_i^K e_k``, ``v_ik = W_i^V e_k``,
    ``a_ik = softmax_k(q_i.k_ik / sqrt(d) [+ g_i s_k])``, with temperatures ``t_i cos(q_i, k_ik)`` in the place of
    ``q_i.k_ik / sqrt(d)``,
    ``z_i = sum_k a_ik v_ik [+ W_i^X e_x]``.
    """
    tokens, attention = [], []
    for i in range(heads):
        q = linear(*head_of(*query, i, d), e_x)
        scores = []
        for k in range(len(e_k)):
            key_k = linear(*head_of(*key, i, d), e_k[k])
            if temperatures is None:
                score = dot(q, key_k) / math.sqrt(d)
            else:
                score = temperatures[i] * dot(unit(q), unit(key_k))
            if slopes is not None and similarities is not None:
                score += slopes[i] * similarities[k]
            scores.append(score)
        a = softmax(scores)
        z = [0.0] * d
        for k in range(len(e_k)):
            v = linear(*head_of(*value, i, d), e_k[k])
            for j in range(d):
                z[j] += a[k] * v[j]
        if direct is not None:
            z = add(z, linear(*head_of(*direct, i, d), e_x))
        tokens.append(z)
        attention.append(a)
    return tokens, attention


def deeper(z: list[Vector], weight: Matrix, bias: Vector) -> list[Vector]:
    """One further layer over the H tokens: ``z_i + sum_j softmax_j(q_i . k_j / sqrt(d)) v_j``; W holds Q, K, V."""
    d = len(z[0])
    parts = [[linear(weight[p * d : (p + 1) * d], bias[p * d : (p + 1) * d], token) for token in z] for p in range(3)]
    out = []
    for i in range(len(z)):
        a = softmax([dot(parts[0][i], parts[1][j]) / math.sqrt(d) for j in range(len(z))])
        mixed = [0.0] * d
        for j in range(len(z)):
            for c in range(d):
                mixed[c] += a[j] * parts[2][j][c]
        out.append(add(z[i], mixed))
    return out

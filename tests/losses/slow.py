"""The losses once more, row by row in plain Python floats, from their definitions."""

import math


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    lengths = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / lengths if lengths else 0.0


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def two_view_rows(z1, z2, rows=None, negatives=None):
    """For each anchor of both views that counts: the positive's cosine and those of its negatives."""
    batch = len(z1)
    stacked = z1 + z2
    for i in range(2 * batch):
        sample = i % batch
        if rows is not None and not rows[sample]:
            continue
        kept = [
            j for j in range(2 * batch) if j % batch != sample and (negatives is None or bool(negatives[sample][j % batch]))
        ]
        yield sample, cosine(stacked[i], stacked[(i + batch) % (2 * batch)]), [cosine(stacked[i], stacked[j]) for j in kept]


def nt_xent(z1, z2, temperature, **masks):
    losses = []
    for _, p, n in two_view_rows(z1, z2, **masks):
        e = math.exp(p / temperature)
        losses.append(-math.log(e / (e + sum(math.exp(x / temperature) for x in n))))
    return mean(losses)


def decoupled(z1, z2, temperature, sigma=None, rows=None, negatives=None):
    batch = len(z1)
    counted = [i for i in range(batch) if rows is None or rows[i]]
    weights = dict.fromkeys(counted, 1.0)
    if sigma is not None:
        exps = {i: math.exp(cosine(z1[i], z2[i]) / sigma) for i in counted}
        weights = {i: 2 - len(counted) * exps[i] / sum(exps.values()) for i in counted}
    losses = []
    for i, p, n in two_view_rows(z1, z2, rows, negatives):
        losses.append(-weights[i] * p / temperature + math.log(sum(math.exp(x / temperature) for x in n)) if n else 0.0)
    return mean(losses)


def hard_negative(z1, z2, temperature, tau_plus, beta, **masks):
    losses = []
    for _, p, n in two_view_rows(z1, z2, **masks):
        if not n:
            losses.append(0.0)
            continue
        e = math.exp(p / temperature)
        x = [math.exp(v / temperature) for v in n]
        w = [v**beta for v in x]
        total = sum(a * b for a, b in zip(w, x, strict=True)) / mean(w)
        g = max((total - len(n) * tau_plus * e) / (1 - tau_plus), len(n) * math.exp(-1 / temperature))
        losses.append(-math.log(e / (e + g)))
    return mean(losses)


def debiased(z1, z2, temperature, tau_plus, **masks):
    return hard_negative(z1, z2, temperature, tau_plus, 0.0, **masks)


def model_aware(z1, z2, temperature, alpha, a0, reweight=True, **masks):
    found = list(two_view_rows(z1, z2, **masks))
    adapted = temperature * (1 + alpha * (mean(p for _, p, _ in found) - a0))
    losses = []
    for _, p, n in found:
        if not n:
            losses.append(0.0)
            continue
        e = math.exp(p / adapted)
        share = e / (e + sum(math.exp(x / adapted) for x in n))
        losses.append(-math.log(share) / (1 - share if reweight else 1.0))
    return mean(losses)


def moco(query, key, queue, temperature, rows=None, negatives=None):
    losses = []
    for i in range(len(query)):
        if rows is not None and not rows[i]:
            continue
        e = math.exp(cosine(query[i], key[i]) / temperature)
        others = [j for j in range(len(queue)) if negatives is None or negatives[i][j]]
        losses.append(-math.log(e / (e + sum(math.exp(cosine(query[i], queue[j]) / temperature) for j in others))))
    return mean(losses)


def adaptive_soft(query, key, queue, student, teacher, n_neighbours, rows=None, negatives=None):
    losses = []
    for i in range(len(query)):
        if rows is not None and not rows[i]:
            continue
        others = [j for j in range(len(queue)) if negatives is None or negatives[i][j]]
        raw = [math.exp(cosine(key[i], queue[j]) / teacher) for j in others]
        share = [x / sum(raw) for x in raw]
        trust = 1 + sum(x * math.log(x) for x in share if x > 0) / math.log(len(others)) if len(others) > 1 else 0.0
        target = [1.0] + [min(1.0, n_neighbours * trust * x) for x in share]
        scores = [math.exp(cosine(query[i], other) / student) for other in [key[i], *(queue[j] for j in others)]]
        losses.append(-sum(t / sum(target) * math.log(s / sum(scores)) for t, s in zip(target, scores, strict=True)))
    return mean(losses)


def _columns(z):
    return [list(column) for column in zip(*z, strict=True)]


def _covariance(a, b, correction):
    return sum((x - mean(a)) * (y - mean(b)) for x, y in zip(a, b, strict=True)) / (len(a) - correction)


def vicreg(z1, z2, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    loss = invariance * mean((a - b) ** 2 for x, y in zip(z1, z2, strict=True) for a, b in zip(x, y, strict=True))
    for z in (z1, z2):
        columns = _columns(z)
        width = len(columns)
        loss += variance / 2 * mean(max(0.0, 1 - math.sqrt(_covariance(c, c, 1) + eps)) for c in columns)
        off = [_covariance(columns[a], columns[b], 1) ** 2 for a in range(width) for b in range(width) if a != b]
        loss += covariance * sum(off) / width
    return loss


def barlow_twins(z1, z2, lambd):
    first, second = _columns(z1), _columns(z2)
    loss = 0.0
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            scale = math.sqrt(_covariance(a, a, 0) + 1e-5) * math.sqrt(_covariance(b, b, 0) + 1e-5)
            c = _covariance(a, b, 0) / scale
            loss += (c - 1) ** 2 if i == j else lambd * c**2
    return loss


def negative_cosine(p, z):
    return -mean(cosine(a, b) for a, b in zip(p, z, strict=True))


def _whiten(z, eps):
    """Gram-Schmidt in disguise: the lower triangular root, entry by entry, and forward substitution."""
    columns = _columns(z)
    width = len(columns)
    root = [[0.0] * width for _ in range(width)]
    for a in range(width):
        for b in range(a + 1):
            entry = (1 - eps) * _covariance(columns[a], columns[b], 1) + (eps if a == b else 0.0)
            entry -= sum(root[a][k] * root[b][k] for k in range(b))
            root[a][b] = math.sqrt(entry) if a == b else entry / root[b][b]
    out = []
    for row in z:
        w = []
        for a in range(width):
            w.append((row[a] - mean(columns[a]) - sum(root[a][k] * w[k] for k in range(a))) / root[a][a])
        out.append(w)
    return out


def whitening_mse(z1, z2, eps, normalize=True):
    w1, w2 = _whiten(z1, eps), _whiten(z2, eps)
    if normalize:
        return mean(2 - 2 * cosine(a, b) for a, b in zip(w1, w2, strict=True))
    return mean((x - y) ** 2 for a, b in zip(w1, w2, strict=True) for x, y in zip(a, b, strict=True))


def _unit(a):
    length = math.sqrt(dot(a, a))
    return [x / length for x in a] if length else list(a)


def _distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(_unit(a), _unit(b), strict=True)))


def alignment(z1, z2, alpha):
    return mean(_distance(a, b) ** alpha for a, b in zip(z1, z2, strict=True))


def uniformity(z, t):
    pairs = [(i, j) for i in range(len(z)) for j in range(i)]
    return math.log(mean(math.exp(-t * _distance(z[i], z[j]) ** 2) for i, j in pairs))

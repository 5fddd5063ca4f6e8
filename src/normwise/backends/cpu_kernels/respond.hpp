// A response over the whole tensor: apply, and the two backward passes.
#pragma once

#include "responses.hpp"

namespace nw {

// f(w, coefficients, x, residual or 0) for each way.
template <class T, class R, class P, class F>
NW_INLINE void response_step(const T* x, const T* residual, P part, const Set<T, R>& set, F f) {
  const Values<T> v = load(x, part), r = residual ? load(residual, part) : Values<T>{};
  each_way<T>([&](int w) NW_LAMBDA {
    vec<acc<T>> t[R::kTables];
    set.way(w, t);
    f(w, t, v.at[w], r.at[w]);
  });
}

template <class T, class R, class P>
NW_INLINE void respond_step(const T* x, const T* residual, T* y, P part, const Set<T, R>& set) {
  using V = vec<acc<T>>;
  Values<T> out;
  response_step<T, R>(x, residual, part, set,
                      [&](int w, const V* t, V v, V r) NW_LAMBDA { out.at[w] = R::value(t, v, r); });
  store(y, out, part);
}

template <class T, class R>
void respond(const Shape& shape, const T* x, const T* residual, T* y, const Tables<T, R>& tables) {
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const Set<T, R> set = tables.plane(piece.n, piece.c);
        const int64_t at = piece.at;
        each_step<T>(piece.count, [&](int64_t i, auto part) NW_LAMBDA {
          respond_step<T, R>(x + at + i, shifted(residual, at + i), y + at + i, part, set);
        });
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        const SetLine<T, R> line = tables.line(piece.n, sheet);
        for_rows<T, 4>(sheet, [&](int64_t at, auto group, int64_t length) NW_LAMBDA {
          each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
            const Set<T, R> set = line.at(i);
#pragma GCC unroll 4
            for (int r = 0; r < decltype(group)::value; ++r) {
              const int64_t here = piece.at + at + r * sheet.stride() + i;
              respond_step<T, R>(x + here, shifted(residual, here), y + here, part, set);
            }
          });
        });
      });
}

// f(w, g·∂y/∂t for each table, g·∂y/∂x).
template <class T, class R, class P, class F>
NW_INLINE void slopes_step(const Incoming<T>& in, P part, const Set<T, R>& set, F f) {
  using V = vec<acc<T>>;
  const Values<T> g = load(in.gy, part);
  response_step<T, R>(in.x, in.residual, part, set, [&](int w, const V* t, V x, V r) NW_LAMBDA {
    V to[R::kTables];
    const V to_x = R::slopes(t, x, r, g.at[w], to);
    f(w, to, x, to_x);
  });
}

// Σ g·∂y/∂t of every channel, for each table.
template <class R>
using ResponseSums = Totals<R::kTables>;

// The sums of a piece of a plane.
template <class T, class R>
NW_INLINE void response_sums(const Incoming<T> in, const Piece& piece, const Set<T, R>& set, ResponseSums<R>& totals) {
  using V = vec<acc<T>>;
  for_chunks({piece.count}, [&](int64_t start, const Runs& chunk) NW_LAMBDA {
    Sum<acc<T>> sums[R::kTables];
    const Incoming<T> here = in.at(piece.at + start);
    sweep<T>(chunk.length, [&](int64_t i, int slot, auto part) NW_LAMBDA {
      slopes_step<T, R>(here.at(i), part, set, [&](int w, const V* to, V, V) NW_LAMBDA {
        // Two slots are enough: the sums of different tables already hide most of the latency.
        for (int k = 0; k < R::kTables; ++k) sums[k].slots[(slot + w) & 1] += keep<T>(to[k], w, part);
      });
    });
    for (int k = 0; k < R::kTables; ++k) totals.row(k, piece.row)[piece.c] += sums[k].total();
  });
}

// The sums of each channel of a sheet, added to a row of totals.
template <class T, class R>
inline void response_sheet_sums(const Incoming<T> in, const Sheet<T>& sheet, const SetLine<T, R>& line, int64_t row,
                                ResponseSums<R>& totals) {
  using V = vec<acc<T>>;
  const int64_t size = padded<T>(sheet.width()), block = kBlockRows * sheet.k;
  Buffer<acc<T>> sums(R::kTables * size);
  for (int64_t start = 0; start < sheet.rows; start += block) {
    std::fill_n(sums.data(), sums.size(), acc<T>(0));
    for_rows<T, 4>(sheet.part(start, block), [&](int64_t at, auto group, int64_t length) NW_LAMBDA {
      const Incoming<T> rows = in.at(start * sheet.distance + at);
      each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
        const Set<T, R> set = line.at(i);
        Values<T> sum[R::kTables];
        for (int k = 0; k < R::kTables; ++k) sum[k] = load_line<T>(&sums[k * size], i);
#pragma GCC unroll 4
        for (int r = 0; r < decltype(group)::value; ++r) {
          const Incoming<T> here = rows.at(r * sheet.stride() + i), later = here.at(kAhead);
          __builtin_prefetch(later.x, 0, 2);
          __builtin_prefetch(later.gy, 0, 2);
          slopes_step<T, R>(here, part, set, [&](int w, const V* to, V, V) NW_LAMBDA {
            for (int k = 0; k < R::kTables; ++k) sum[k].at[w] += keep<T>(to[k], w, part);
          });
        }
        for (int k = 0; k < R::kTables; ++k) store_line<T>(&sums[k * size], i, sum[k]);
      });
    });
    for (int k = 0; k < R::kTables; ++k) add_columns<T>(totals.row(k, row), &sums[k * size], sheet);
  }
}

template <class T, class R>
ResponseSums<R> reduce_response(const Shape& shape, const Incoming<T>& in, const Tables<T, R>& tables) {
  ResponseSums<R> partial(shape.N * shape.pieces(), shape.C);
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA { response_sums<T, R>(in, piece, tables.plane(piece.n, piece.c), partial); },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece);
        response_sheet_sums<T, R>(in.at(piece.at), sheet, tables.line(piece.n, sheet), piece.row, partial);
      });
  return std::move(partial).folded(shape.N);
}

// The gradient through the moments, slope·(x - mean) + offset, if the mask keeps the value.
template <class T>
struct ThroughMoments {
  Table<acc<T>> mean, slope, offset;
};

template <class T, class R, class P>
NW_INLINE void response_grad_step(const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr, P part, const Set<T, R>& set,
                                  const Values<T>& mean, const Through<T>& through) {
  using V = vec<acc<T>>;
  Values<T> out, to_residual;
  slopes_step<T, R>(in, part, set, [&](int w, const V* to, V x, V to_x) NW_LAMBDA {
    const V back = through.slope.at[w] * (x - mean.at[w]) + through.offset.at[w];
    out.at[w] = to_x + (mask ? (load_mask<T>(mask, part, w) ? back : V{}) : back);
    to_residual.at[w] = to[R::kShift];
  });
  store(gx, out, part);
  if (gr) store(gr, to_residual, part);
}

template <class T, class R>
void response_grad_sheet(const Incoming<T> in, const uint8_t* mask, T* gx, T* gr, const Sheet<T>& sheet,
                         const SetLine<T, R>& line, const Line<T>& mean, const ThroughLine<T>& through) {
  for_rows<T, 4>(sheet, [&](int64_t at, auto group, int64_t length) NW_LAMBDA {
    each_step<T>(length, [&](int64_t i, auto part) NW_LAMBDA {
      const Set<T, R> set = line.at(i);
      const Values<T> m = mean.at(i);
      const Through<T> back = through.at(i);
#pragma GCC unroll 4
      for (int r = 0; r < decltype(group)::value; ++r) {
        const int64_t here = at + r * sheet.stride() + i;
        const bool kept = !mask || mask[at / sheet.distance + r];
        response_grad_step<T, R>(in.at(here), nullptr, gx + here, shifted(gr, here), part, set, m,
                                 kept ? back : Through<T>{});
      }
    });
  });
}

template <class T, class R>
void differentiate_response(const Shape& shape, const Incoming<T>& in, const uint8_t* mask, T* gx, T* gr,
                            const Tables<T, R>& tables, const ThroughMoments<T>& back) {
  auto kept = [&](const Piece& piece) { return shifted(mask, piece.n * shape.S + piece.first); };
  for_pieces(
      shape,
      [&](const Piece& piece) NW_LAMBDA {
        const int64_t n = piece.n, c = piece.c;
        const Set<T, R> set = tables.plane(n, c);
        const Values<T> mean = everywhere<T>(back.mean.at(n, c));
        const Through<T> through{everywhere<T>(back.slope.at(n, c)), everywhere<T>(back.offset.at(n, c))};
        const uint8_t* of_piece = kept(piece);
        each_step<T>(piece.count, [&](int64_t i, auto part) NW_LAMBDA {
          const int64_t here = piece.at + i;
          response_grad_step<T, R>(in.at(here), shifted(of_piece, i), gx + here, shifted(gr, here), part, set, mean,
                                   through);
        });
      },
      [&](const Piece& piece) {
        const Sheet<T> sheet = sheet_of<T>(shape, piece, mask != nullptr);
        const int64_t at = piece.at, n = piece.n;
        response_grad_sheet<T, R>(in.at(at), kept(piece), gx + at, shifted(gr, at), sheet, tables.line(n, sheet),
                                  Line<T>(back.mean, n, sheet), {{back.slope, n, sheet}, {back.offset, n, sheet}});
      });
}

}  // namespace nw

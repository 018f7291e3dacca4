// Where the pixels of one grid lie on the cells of another, along one axis.
//
// Both grids have their centres at half-integers: pixel p lies at
//     (p + 1/2) * cells / pixels - 1/2 = ((2p + 1) * cells - pixels) / (2 * pixels)
// on the axis of cells. The quotient is taken in whole numbers, so that the cell never differs from
// the one that NumPy finds in float64 (kernels/interpolation.py). Sides up to 16384 keep every step
// inside an int and the remainder exact as a float.
#pragma once

struct Position {
    int cell;     // the cell at or before the pixel, -1 before the first one
    float share;  // of the way to the next cell, 0 <= share < 1
};

struct Taps {
    int lower, upper;  // value = (1 - share) * cells[lower] + share * cells[upper]
    float share;
};

__device__ inline Position position(int pixel, int cells, int pixels) {
    const int numerator = (2 * pixel + 1) * cells + pixels;  // one cell further: never negative
    const int quotient = numerator / (2 * pixels);
    const int remainder = numerator - quotient * 2 * pixels;
    return {quotient - 1, float(remainder) / float(2 * pixels)};
}

// The two cells of bilinear resampling, clamped at the border.
__device__ inline Taps bilinear_taps(int pixel, int cells, int pixels) {
    const Position at = position(pixel, cells, pixels);
    if (at.cell < 0) return {0, 0, 0.0f};
    if (at.cell >= cells - 1) return {cells - 1, cells - 1, 0.0f};
    return {at.cell, at.cell + 1, at.share};
}

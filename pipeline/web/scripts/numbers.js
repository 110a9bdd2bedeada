/* What NumPy computes otherwise than JavaScript does. */

/* Half a unit goes to the even neighbour: what is added leaves no room for fractions. */
const NO_FRACTIONS = 1.5 * 2 ** 52;

export function rint(value) {
  return value + NO_FRACTIONS - NO_FRACTIONS;
}

export function sum(values) {
  let total = 0;
  for (const value of values) {
    total += value;
  }
  return total;
}

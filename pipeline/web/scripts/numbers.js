/* Functions that behave differently in NumPy and in JavaScript. */

/* Rounds half to even: the added constant leaves no bits for the fraction. */
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

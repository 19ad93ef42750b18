/** The algorithms that choose a backend for a new player. */
export const ALGORITHMS = ['ip-hash', 'least-connections', 'round-robin'] as const;
export type Algorithm = (typeof ALGORITHMS)[number];

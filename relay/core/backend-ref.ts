/**
 * A backend reference: which slot of its pool, and which incarnation. A backend that fails or leaves gets a new
 * incarnation, so that every pin and session that refers to the old one is released in one step, without a search.
 *
 * Layout, 32 bits: incarnation (22, from 1) | slot (10).
 */
const SLOT_BITS = 10;
const SLOT_MASK = (1 << SLOT_BITS) - 1;
const INCARNATION_MASK = (1 << (32 - SLOT_BITS)) - 1;

/** No backend: incarnations start at 1. */
export const NO_BACKEND_REF = 0;

export type BackendRef = number;

export function backendRef(slot: number, incarnation: number): BackendRef {
  return ((incarnation << SLOT_BITS) | slot) >>> 0;
}

export function slotOf(ref: BackendRef): number {
  return ref & SLOT_MASK;
}

/** The same slot, one incarnation later. */
export function nextIncarnation(ref: BackendRef): BackendRef {
  const next = ((ref >>> SLOT_BITS) + 1) & INCARNATION_MASK;
  return backendRef(ref & SLOT_MASK, next === 0 ? 1 : next);
}

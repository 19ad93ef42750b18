/** Looks a backend up by walking the list and comparing text. */
import type { Endpoint } from '../../net/address.ts';

export function naiveSlotAt(
  backends: readonly { readonly slot: number; readonly endpoint: Endpoint }[],
  endpoint: Endpoint,
): number {
  return backends.find((backend) => backend.endpoint.toString() === endpoint.toString())?.slot ?? -1;
}

/**
 * How a steward takes its next request: the engine writes a list of them into a map and has the program test-run as often, and
 * each run does one (requests.ts).
 */
import type { MapName } from './maps.ts';
import { field, r1, r2, r6, r9, type Register } from './memory.ts';
import { type Code, local, NEXT, readClock } from './program-frame.ts';
import type { Struct } from './struct.ts';

export interface RequestSource {
  readonly map: MapName;
  readonly list: Struct<'cursor' | 'count' | 'requests'>;
  readonly request: Struct<'operation'>;
  /** Requests of one list. */
  readonly most: number;
}

/** to = the request, r6 the list (or the request, if `to` is r6), r9 the time; or goes to NEXT, when all are done. Loses r1 and r2. */
export function takeRequest(a: Code, to: Register, { map, list, request, most }: RequestSource): void {
  readClock(a);
  a.load(r9, local('nowNs'));
  a.loadMapValue(r6, map);
  a.load(r1, field(r6, list, 'cursor'));
  a.load(r2, field(r6, list, 'count'));
  a.jumpIf(r1, '>=', r2, NEXT);
  a.jumpIf(r1, '>=', most, NEXT);
  a.mov(r2, r1);
  a.alu('add', r2, 1);
  a.store(field(r6, list, 'cursor'), r2);
  a.alu('mul', r1, request.size);
  if (to !== r6) a.mov(to, r6);
  a.alu('add', to, r1);
  a.alu('add', to, list.at.requests);
}

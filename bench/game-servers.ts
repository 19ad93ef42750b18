/** The game servers behind every route of a benchmark. */
import type { CodecName } from '../wire/codec.ts';
import type { LoadContext } from './load-run.ts';
import { MATCH_PLAYERS } from './payload-table.ts';
import { pinRunning } from './pinning.ts';
import { GAME_SERVERS } from './plan.ts';
import { tickrelay } from './process-group.ts';

/** Starts them. They forget nobody while the benchmark runs. @returns their addresses */
export function startGameServers(
  codec: CodecName,
  { group, pinning, site }: Pick<LoadContext, 'group' | 'pinning' | 'site'>,
): Promise<string[]> {
  const servers = Array.from({ length: GAME_SERVERS }, (_, i) => {
    const where = ['--listen', `${site.serverIp}:0`, '--id', `${i + 1}`];
    const what = ['--codec', codec, '--match', `${MATCH_PLAYERS}`, '--forget', '1h'];
    const spec = tickrelay(`game server ${i + 1}`, ['gameserver', ...where, ...what, '--json']);
    return group.start(site.asServer(spec));
  });
  return Promise.all(
    servers.map(async (server) => {
      const { udp } = await server.event('ready');
      pinRunning(server.pid, pinning?.loadCpus);
      return String(udp);
    }),
  );
}

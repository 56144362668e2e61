from streamvln_gym.evaluation.work import Dispatcher, Group, make_groups


def test_groups_do_not_depend_on_what_is_finished(tiny_flats):
    dataset = tiny_flats.dataset
    wanted = list(dataset.episode_ids)
    whole = make_groups(dataset, wanted, 3)
    assert [group.episode_ids for group in whole] == [("10", "11"), ("20", "30"), ("40", "50", "51")]
    assert [group.number for group in whole] == [0, 1, 2]
    rest = make_groups(dataset, wanted, 3, known={"10", "11", "30"})
    assert [(group.number, group.episode_ids, group.known) for group in rest] == [
        (1, ("20", "30"), frozenset({"30"})),
        (2, ("40", "50", "51"), frozenset()),
    ]
    assert make_groups(dataset, wanted, 3, known=wanted) == []


def test_finished_episodes_are_played_again_for_their_films(tiny_flats):
    dataset = tiny_flats.dataset
    (group,) = make_groups(dataset, ["10", "11"], 1, known=["10", "11"], filmed=["11"])
    assert group.episode_ids == ("11",) and group.filmed == group.known == frozenset({"11"})


def groups(**sizes: int) -> list[Group]:
    made: list[Group] = []
    for scene, size in sizes.items():
        made += [Group(len(made) + k, scene, (f"{scene}{k}",)) for k in range(size)]
    return made


def test_workers_stay_in_their_scenes_and_help_in_the_end():
    dispatcher = Dispatcher(groups(small=2, large=5), attempts=1)
    assert dispatcher.take("a").scene_id == "large"
    assert dispatcher.take("b").scene_id == "small"
    assert dispatcher.take("a").scene_id == "large"
    assert dispatcher.take("b").scene_id == "small"
    assert [dispatcher.take("b").episode_ids for _ in range(3)] == [("large2",), ("large3",), ("large4",)]
    assert dispatcher.take("a") is None and dispatcher.take("b") is None


def test_a_group_is_given_back_a_bounded_number_of_times():
    dispatcher = Dispatcher(groups(scene=1), attempts=3)
    for attempt in range(3):
        group = dispatcher.take(f"w{attempt}")
        assert group is not None
        assert dispatcher.give_back(group, f"w{attempt}") is (attempt < 2)
    assert dispatcher.take("w3") is None
    assert [group.episode_ids for group in dispatcher.condemned] == [("scene0",)]
